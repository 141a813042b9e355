"""Every name of the libraries beneath that they do not promise to keep, one module a library.

Nothing else in the engine touches such a name. Each module says in RELIES_ON what it takes for granted and what would
break without it; tests/integration/test_engine_contracts.py checks each against the installed version.
"""
