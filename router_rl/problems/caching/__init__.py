"""The caching problem: which experts stay in GPU memory."""
