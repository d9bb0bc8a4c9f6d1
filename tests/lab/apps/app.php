<?php
// An app that knows nothing of being stopped, for php-fpm.
$ms = (int)($_GET['ms'] ?? 0);
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
header('Content-Type: text/plain');
if ($path === '/stream') {
    $end = hrtime(true) / 1e6 + $ms;
    while (($left = $end - hrtime(true) / 1e6) > 0) {
        echo "more\n";
        while (ob_get_level()) {
            ob_end_flush();
        }
        flush();
        usleep((int)(1000 * min(200, $left)));
    }
    echo "end\n";
} elseif ($path === '/upload') {
    echo 'taken ' . strlen(file_get_contents('php://input')) . "\n";
} else {
    usleep(1000 * $ms);
    echo "done\n";
}
