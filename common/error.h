/* error.h: what went wrong, as a number for programs and a sentence for people.
 *
 * Functions return 0 (or a count) on success and -errno on failure. Where a person may read the reason,
 * they also fill a caller-owned struct skv_error; NULL is allowed and means "nobody will read it".
 * Four numbers carry a meaning beyond errno(3), and decide the exit code of both programs:
 *
 *   -ENODATA           a block is lost: every node was asked       exit 3
 *   -EBADMSG           bytes failed their checksum                 exit 3
 *   -EHOSTUNREACH      no usable node (absent, died, too slow)     exit 4
 *   -EPROTONOSUPPORT   the node speaks another version             exit 4
 */
#ifndef SKV_ERROR_H
#define SKV_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

struct skv_error {
    int code;       /* the -errno that was returned, 0 if none */
    char text[500]; /* one sentence: what happened and what to do, no newline */
};

/* Fills err (may be NULL) and returns code, so that callers write `return skv_fail(err, -EINVAL, "…", x);`.
 */
int skv_fail(struct skv_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* 0 done, 1 failed, 2 usage (-EINVAL is not enough: command lines say it themselves), 3 data lost or wrong,
 * 4 no usable node. */
int skv_exit_code(int code);

#ifdef __cplusplus
}
#endif
#endif
