"""World models: encoder, latent dynamics, decoder and heads."""

if __name__ != "worldsim.models":
    raise ImportError("import worldsim.models, not models: the top-level folder is a link to the package's own")
