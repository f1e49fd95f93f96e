"""Networks: plain nn.Modules that know no schedule, no guidance and no config file."""
