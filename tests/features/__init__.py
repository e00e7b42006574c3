"""What Converse does with each provider, shown over a real socket: ``python -m tests.features`` writes the table."""
