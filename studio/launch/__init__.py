"""How a worker is started and found again, and what this machine is. The only home of subprocess.

A kind of launcher has four verbs: start, find, signal, reap. `local` is the first; others (a cluster, a cloud)
keep the same four.
"""
