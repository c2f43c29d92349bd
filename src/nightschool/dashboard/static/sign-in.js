// The part of the address behind # never reaches the server: the form takes it along, and the browser on to the page.
document.getElementById("sign-in").action = `/sign-in${location.hash}`;
