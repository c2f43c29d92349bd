"""The only room that imports torch: model, optimizer, schedule, loop, checkpoint."""
