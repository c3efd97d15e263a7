"""All that a run reads, checked before any rank is started, and given to its ranks."""
