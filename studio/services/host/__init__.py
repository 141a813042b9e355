"""The machine and its visitors: usage, doctor, admin, takeout and expiry."""
