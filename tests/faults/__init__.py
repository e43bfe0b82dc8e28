"""Faults: kills, full disks, damaged files, lost processes, and what the next run makes of them.

A few of each run in `make test`, hundreds of them in `make soak`. All are drawn by a seed, and none depends
on how busy the machine is: a job is stopped at its N-th write, not after some seconds.
"""
