// One step that all pictures point at.

const followers = new Set();
let current = null;

// follower(step): draws its line at the step, or none for null. Returns what ends it.
export function follow(follower) {
  followers.add(follower);
  follower(current);
  return () => followers.delete(follower);
}

let asked = false;
export function pointAt(step) {
  if (step === current) return;
  current = step;
  if (asked) return;
  asked = true; // at most once a frame
  requestAnimationFrame(() => {
    asked = false;
    for (const follower of followers) follower(current);
  });
}
