// Work that is asked for more often than it can be done.

/** Runs `work`, never two at a time; asked for meanwhile, it runs once more afterwards. */
export function oneAtATime(work) {
  let current = null;
  let again = false;
  const run = async () => {
    do {
      again = false;
      await work();
    } while (again);
  };
  return () => {
    if (current) {
      again = true;
      return current;
    }
    current = run().finally(() => {
      current = null;
    });
    return current;
  };
}
