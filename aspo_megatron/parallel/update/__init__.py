"""One optimizer update: objective, gradients, loss scale, Adam."""
