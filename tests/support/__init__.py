"""What tests use to set up, drive and watch the product."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
"""The repository."""
