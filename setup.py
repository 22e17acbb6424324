"""Entry for tools that expect a setup.py; all metadata are in pyproject.toml."""

from setuptools import setup

setup()
