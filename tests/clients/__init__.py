"""Clients of others and of ours, unmodified, against real servers: ``python -m tests.clients``."""
