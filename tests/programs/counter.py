"""An HTTP counter on threads: every GET answers the next number. Usage: counter.py PORT"""
import http.server
import sys
import threading

lock = threading.Lock()
count = 0


class Counter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        with lock:
            if self.path == "/":
                count += 1
            body = f"{count}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Counter).serve_forever()
