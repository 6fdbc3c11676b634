"""``segproto studio``: a page on this machine to look into a model, switch prototypes off and see what changes."""
