"""The download side: a pure machine that decides, and a driver that moves the bytes.

machine.py      what to ask of whom next (pure)
sink.py         where a body goes: hashed and stored as it arrives
parents.py      listening to a parent's availability
leasing.py      the lease of a task, and its reader
reader.py       reading the origin under a lease
intake.py       what an origin sends, stored
registration.py what a task tells whoever decides for it
task.py         one task on this host: decisions, parents, reader, users
conductor.py    all tasks of this host; one run per task however many ask
lone.py         a download without daemon or scheduler
"""
