"""Simulated swarms: the real scheduler and the real picker on a simulated network.

timeline.py     what is to happen when
network.py      links and the bytes that flow over them
host.py         a host around the real download machine
telling.py      how it tells others what it has
reading.py      how it reads the origin
control.py      the real scheduler and the messages to and from it
world.py        all of it together: the exact simulation
approximate.py  another one in steps of time, for very large swarms (needs numpy)
crowd.py        its peers, as arrays
lanes.py        their requests, and the bytes that flow
asking.py       what they ask, and of whom
bits.py         sets of pieces as words of bits
dealing.py      its seed
overlay.py      its graph
scenario.py     what is simulated
optimum.py      the closed forms to divide by
outcome.py      what came of it
"""
