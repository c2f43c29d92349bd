// The part of the address behind # never reaches the server: the form takes it along, and the browser on to the page.
// It is run before there is a form: one that is sent as soon as it is there takes it along too.
addEventListener("submit", (event) => {
  event.target.action = `/sign-in${location.hash}`;
});
