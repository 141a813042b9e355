"""The web pages, one package per tab. A handler reads values, calls a service and returns updates, nothing more."""
