"""The pages: one module a tab. A handler reads values, calls a service and returns updates; nothing more."""
