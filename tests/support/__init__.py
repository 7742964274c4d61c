"""Fakes, apps and servers that several tests share."""
