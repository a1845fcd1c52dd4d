/* A small HTTP server on the loopback for tests: one thread, one request at a time, a handler that answers.
 * What the test changes while it runs must be atomic: an answer on a socket orders nothing. */
#ifndef FP_TESTS_HTTP_LAB_H
#define FP_TESTS_HTTP_LAB_H
#include "core/bytes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct http_request {
    char method[8], path[512]; /* the path without its slash */
    fp__buf body;
} http_request;
typedef struct http_answer {
    int status;
    const char *headers; /* further header lines, each with \r\n; or NULL */
    fp__buf body;
    bool hang_up; /* answer nothing */
} http_answer;
typedef void http_handler(void *arg, const http_request *request, http_answer *answer);

typedef struct http_lab {
    int fd;
    char url[64];
    http_handler *handler;
    void *arg;
    pthread_t thread;
    _Atomic unsigned requests;
} http_lab;

static bool http_read(int fd, http_request *request)
{
    static _Thread_local char bytes[1 << 20];
    size_t have = 0, length = 0;
    char *end = NULL;
    while (end == NULL && have < sizeof bytes - 1) {
        ssize_t n = read(fd, bytes + have, sizeof bytes - 1 - have);
        if (n <= 0)
            return false;
        have += (size_t)n;
        bytes[have] = 0;
        end = strstr(bytes, "\r\n\r\n");
    }
    if (end == NULL || sscanf(bytes, "%7s /%511s", request->method, request->path) < 1)
        return false;
    for (char *line = strstr(bytes, "\r\n"); line != NULL && line < end; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            length = strtoul(line + 17, NULL, 10);
    size_t begin = (size_t)(end + 4 - bytes);
    while (have < begin + length && have < sizeof bytes) {
        ssize_t n = read(fd, bytes + have, sizeof bytes - have);
        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return fp__buf_append(&request->body, bytes + begin, length) == FP_OK;
}

static void http_send(int fd, const void *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = send(fd, (const char *)data + at, size - at, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        at += (size_t)n;
    }
}

static void *http_serve(void *arg)
{
    http_lab *lab = arg;
    for (;;) {
        int fd = accept(lab->fd, NULL, NULL);
        if (fd < 0)
            return NULL; /* stopped */
        http_request request = {.method = ""};
        http_answer answer = {.status = 200};
        if (http_read(fd, &request)) {
            lab->handler(lab->arg, &request, &answer);
            lab->requests++; /* whoever reads it sees what the handler did */
            fp__buf head = {0};
            if (!answer.hang_up &&
                fp__buf_printf(&head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n%s\r\n",
                               answer.status, answer.body.size,
                               answer.headers != NULL ? answer.headers : "") == FP_OK) {
                http_send(fd, head.data, head.size);
                http_send(fd, answer.body.data, answer.body.size);
            }
            fp__buf_free(&head);
        }
        fp__buf_free(&request.body);
        fp__buf_free(&answer.body);
        shutdown(fd, SHUT_RDWR);
        close(fd);
    }
}

static void http_start(http_lab *lab, http_handler *handler, void *arg)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    *lab = (http_lab){.fd = socket(AF_INET, SOCK_STREAM, 0), .handler = handler, .arg = arg};
    if (lab->fd < 0 || bind(lab->fd, (struct sockaddr *)&address, size) != 0 || listen(lab->fd, 16) != 0 ||
        getsockname(lab->fd, (struct sockaddr *)&address, &size) != 0 ||
        pthread_create(&lab->thread, NULL, http_serve, lab) != 0)
        abort();
    snprintf(lab->url, sizeof lab->url, "http://127.0.0.1:%u", ntohs(address.sin_port));
}

static void http_stop(http_lab *lab)
{
    shutdown(lab->fd, SHUT_RDWR);
    pthread_join(lab->thread, NULL);
    close(lab->fd);
}
#endif
