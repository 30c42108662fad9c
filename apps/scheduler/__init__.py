"""The scheduler role: decides who takes what from whom, and who reads the origin."""
