"""What an evaluation asks, how answers are judged by rule, and what may be said of the result; without torch."""
