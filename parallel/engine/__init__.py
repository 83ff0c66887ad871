"""The training engine on DeepSpeed: settings, optimizers, initialisation, the step."""
