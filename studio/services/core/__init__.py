"""What all services share: the studio they are handed, its keeper, who asks, quotas, and child jobs."""
