"""Shared by all services: the Studio object, its keeper, visitor identity, quotas and child jobs."""
