"""The whole story on real software, as a newcomer sees it: ``python -m tests.demo``."""
