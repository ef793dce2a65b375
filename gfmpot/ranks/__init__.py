"""The ranks of a job: which one this process is, where they meet, and how their job ends."""
