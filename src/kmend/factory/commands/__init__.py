"""The commands of `kmend-factory`, a module each; every module offers `command`."""
