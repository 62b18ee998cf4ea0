"""What a queue job runs: one part of an evaluation."""

from __future__ import annotations


def run_part(run_id: str, part: str) -> None:
    """Run the part whose lease this process holds."""
