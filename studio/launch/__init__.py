"""Start workers and find them again; most subprocesses are started here.

A launcher has four operations: start, find, signal, reap. `workers` is the local one; others (a cluster, a cloud) would
have the same four.
"""
