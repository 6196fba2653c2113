"""Suites that come with the package, as YAML."""
