"""The papers' claims, each judged from the runs of a grid: holds, does not hold, or cannot be told."""

from dataeff.claims.claim import FILE, Claim, Claims, Verdict, read_claims, write_claims

__all__ = ["FILE", "Claim", "Claims", "Verdict", "read_claims", "write_claims"]
