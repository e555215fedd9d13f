"""The courier: delivers webhooks, and sees to what a fleet without workers would leave undone. It loads no model."""
