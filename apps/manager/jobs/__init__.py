"""Jobs: work on the hosts of clusters, of which each part is done once or again, whoever dies."""
