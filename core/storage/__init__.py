"""What a peer keeps on disk: one sparse file per generation, and an index of its valid pieces.

    store.py         all entries of a data directory: quota, eviction, removal
    entry.py         one generation: write, commit, learn digests, wait for changes
    journal.py       index changes of all entries, in batches, one transaction each
    index.py         the tables; the only user of sqlite3 in core
    sidecar.py       signed digest runs, in a file beside the content
    recovery.py      opening after a crash: leftovers, suspect content, a damaged index
    trust.py         whether the disk still holds what the index says
    verification.py  pieces on disk against their digests
    eviction.py      what has to go (pure)
    content.py       the open content file of an entry, shared by its users
    directory.py     the data directory: its mode, its lock, its file names
    faults.py        the operating system's errors as ours
    linux.py         system calls that Python does not offer
    delivery.py      from a stored file to the user's path
    identity.py      the host's key

Order: bytes are written, verified, their index rows committed; only then are they visible.
"""

from hawker.core.storage.entry import Entry
from hawker.core.storage.store import Store

__all__ = ["Entry", "Store"]
