/* interrupt.h: Ctrl-C and SIGTERM ask the command to stop; it stops between two passes and says what it has.
 * The second one ends the program at once. The handler is the program's: the library has none. */
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void);
bool interrupted(void);
/* Goes on as if Ctrl-C had not been pressed, and catches the next one. False: it was SIGTERM. */
bool interrupt_forgive(void);
enum { EXIT_INTERRUPTED = 130 }; /* as shells report a program ended by Ctrl-C */

#endif
