"""AI conversations for Django whose replies stream, and of which nothing is ever lost."""

__version__ = "0.1.0"
