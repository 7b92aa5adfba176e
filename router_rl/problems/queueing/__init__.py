"""The queueing problem: to which busy expert a request is sent."""
