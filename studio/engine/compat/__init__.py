"""Access to private and unstable names of the libraries, one module per library.

No other part of the engine uses such names. Each module lists in RELIES_ON what it assumes and what would break without
it; tests/integration/test_engine_contracts.py checks each entry against the installed version.
"""
