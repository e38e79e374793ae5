"""One module or package per command. The packages below do not import one another; here they are joined."""
