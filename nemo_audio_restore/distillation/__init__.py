"""Score distillation: a frozen text-to-audio prior pulls the parameters of a differentiable renderer to a prompt."""
