"""One function a verb. The rooms do not know one another; here they are joined."""
