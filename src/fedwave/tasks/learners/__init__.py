"""The torch half of the tasks: imported by ``Task.build`` only, so that planning and listing stay torch-free."""
