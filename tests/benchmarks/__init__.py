"""How fast Converse is, as ratios measured side by side: ``python -m tests.benchmarks``."""
