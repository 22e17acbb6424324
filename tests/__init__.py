"""Tests: files mirror the package; `promises/` has one file for each promise of the public interface."""
