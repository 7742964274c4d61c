"""A network in memory for tests: servers with scripts and rate limits, in virtual time, on trio and asyncio."""
