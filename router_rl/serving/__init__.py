"""Serving: an OpenAI-compatible endpoint in front of the experts, and its decision log.

`pip install 'router-rl[serve]'`. Nothing here is imported by `import router_rl`.
"""
